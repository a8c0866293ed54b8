"""Scores how much a text looks like Chinese, to tell whether bytes that decode as GB 18030 really are GB 18030.

Nearly every pair of high bytes is a character of GB 18030, so text in any other code page may decode, too. The result
then looks like hanzi drawn at random: of the 3755 that are in use, about a fifth belongs to the common ones below, and
a pair of neighbours is one of the words below once in about 2**14 times. In a table in Chinese, four fifths are common
and words abound.
"""

from __future__ import annotations

import math
import re
from itertools import pairwise

# The most frequent hanzi of modern Chinese, then those that are used in tables of defects, risks and actions.
COMMON = frozenset(
    "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后作里用道行所然家事成方多经么去法学如都同"
    "现当没动面起看定天分还进好小部其些主样理心本前开但因只从想实日军者意无力它与长把机十民第公此已工使情明性知全三又关点正业外将两高间由问很"
    "最重并物手应战向头文体政美相见被利什二等产或新己制身果加西斯月话合回特代内信表化老给世位次度门任常先海通教儿原东声提立及比员解水名真论处"
    "走义各入几口认条平系气题活尔更别打女变四神总何电数安少报才结反受目太量再感建务做接必场件计管期市直德资命山金指克许统区保至队形社便空决治"
    "展马科司五基眼书非则听白却界达光放强即像难且权思王象完设式色路记南品住告类求据程北边死张该交规万取拉格望觉术领共确传师观清今切院让识候带"
    "导争运笔"
    "裂缝纹划痕破损缺陷脏污渍斑锈蚀腐变形凹凸坑孔洞断毛刺异良漏渗脱落剥翘皱鼓泡掉漆松弛错误险级轻微严中度低极较般急危隐患风坠倒坍塌触火灾爆炸"
    "撞击伤护栏帽绳网警示标志牌脚架墙柱梁板屋顶砖瓦混凝土钢筋管焊螺栓母线缆桥隧轨枕绝缘玻璃布织件表背左右侧图片像视频径签注备描述建议整改纠预防"
    "训练验证集测试组跑跳挥踢推拥抱握坐躺站摔跌吸烟携玩跨越攀爬闯离岗睡戴穿未否停立检查维修更换现场拍摄始终止帧率秒钟红黄蓝绿"
)
# Words of two hanzi from such tables, and the pairs in longer words.
_WORDS = (
    "路径 文件 件名 图片 图像 视频 标签 类别 动作 作类 行为 缺陷 陷类 类型 风险 险等 等级 级别 严重 程度 描述 险描 "
    "纠正 预防 建议 整改 陷描 划分 分组 训练 练集 验证 证集 测试 试集 开始 起始 结束 终止 时间 时刻 帧率 始帧 束帧 "
    "备注 编号 序号 名称 日期 位置 地点 楼层 部位 区域 来源 相机 设备 正常 无风 轻微 轻度 中等 中度 重度 特别 别严 "
    "极其 其严 极高 一般 较大 重大 低风 中风 高风 合格 不合 良好 良品 不良 异常 完好 危险 安全 隐患 紧急 其他 其它 "
    "未知 裂纹 裂缝 开裂 龟裂 破损 破裂 破碎 断裂 划痕 划伤 擦伤 刮伤 碰伤 凹陷 凹坑 凸起 压痕 变形 弯曲 翘曲 起皱 "
    "褶皱 气泡 气孔 鼓泡 起泡 孔洞 针孔 砂眼 夹杂 缺口 缺失 缺料 缺损 毛刺 毛边 脏污 污渍 污染 污点 油污 异物 杂质 "
    "斑点 黑点 白点 色差 变色 发黄 锈蚀 生锈 腐蚀 氧化 渗水 渗漏 漏水 泄漏 漏油 积水 潮湿 发霉 霉变 脱落 剥落 剥离 "
    "掉漆 空鼓 露筋 蜂窝 麻面 剥蚀 沉降 坍塌 坍陷 倒塌 塌陷 滑坡 松动 松脱 松弛 错位 偏移 虚焊 漏焊 假焊 短路 断路 "
    "断线 断栅 隐裂 热斑 破洞 断经 断纬 跳线 抽丝 结头 磨损 老化 烧焦 烧蚀 过热 堵塞 缺件 反向 歪斜 倾斜 深度 深色 "
    "浅色 坠落 跌落 跌倒 摔倒 滑倒 打架 斗殴 打斗 推搡 拥抱 握手 挥手 招手 拍手 指向 踢腿 挥拳 跑步 奔跑 跳跃 跳舞 "
    "行走 走路 站立 坐下 起立 蹲下 躺下 睡觉 睡岗 离岗 吸烟 抽烟 打电 电话 玩手 手机 喝水 吃饭 攀爬 翻越 跨越 闯入 "
    "入侵 聚集 徘徊 遗留 火焰 烟雾 火灾 爆炸 触电 碰撞 物体 体打 打击 机械 伤害 护栏 栏杆 全帽 全带 未戴 佩戴 未佩 "
    "反光 工服 防护 临边 洞口 脚手 手架 高处 作业 施工 现场 立即 停工 撤离 定期 检查 检修 维修 修复 修补 更换 加固 "
    "清理 清洁 处理 墙体 墙面 屋面 混凝 凝土 钢筋 桥梁 隧道 路面 坑槽 管道 焊缝 表面 玻璃 红色 黄色 蓝色 绿色 黑色 "
    "白色 灰色 绝缘 缘子 自爆 鸟巢 导线 断股 散股 防震 震锤 间隔 隔棒 均压 压环 销钉 螺母 螺栓 螺丝 悬挂 金具 杆塔 "
    "塔吊 吊车 挖掘 掘机 起重 重机 推土 土机 模板 砌体 墙砖 铝扣 扣板 结构 构胶 瓷砖 地砖 地板 门窗 幕墙 涂料 油漆 "
    "防水 水层 保温 钢板 钢管 铸件 轴承 齿轮 砂轮 崩刃 崩边 崩角 缺角 缺边 掉角 钎焊 焊接 焊点 焊瘤 咬边 未熔 熔合 "
    "未焊 焊透 裂隙 斜裂 竖裂 横裂 纵裂 横向 纵向 网状 斑块 麻点 麻坑 压入 铁皮 夹渣 缩孔 缩松 冷隔 飞边 水纹 流痕 "
    "节疤 虫眼 虫洞 霉斑 黄斑 病斑 叶斑 枯萎 白粉 粉病 病害 虫害 健康 黑片 栅线 断格 遮挡 阴影 积雪 灰尘 污秽 多铜 "
    "漏铜 漏孔 偏孔 错件 漏件 立碑 连锡 少锡 井盖 路障 护坡 车辙 沉陷 拥包 泛油 松散 道钉 扣件 弹条 钢轨 轨道 受电 "
    "接触 触网 追尾 超速 逆行 违停 拥堵 闯红 红灯 行人 车辆 汽车 卡车 货车 轿车 客车 公交 摩托 自行 行车 电动 男人 "
    "女人 男性 女性 老人 小孩 儿童 工人 举手 写字 读书 看书 听课 起床 卧床 开门 关门 开车 骑车 游泳 篮球 足球 排球 "
    "网球 羽毛 毛球 蹦跳 跑跳 慢跑 快跑 快走 慢走 上楼 下楼 弯腰 转身 鼓掌 拍打 殴打 踢打 推人 追逐 抢劫 盗窃 偷窃 "
    "纵火 枪击 袭击 虐待 逮捕 破坏 事故 搬运 拖拽 投掷 抛物 坠物 溺水 晕倒 昏倒 倒地 安静 苹果 香蕉 葡萄 西瓜 鸡蛋 "
    "鸭蛋 白菜 玉米 小麦 水稻 小猫 小狗 动物 键盘 鼠标 屏幕 电池 电机 电缆 开关 仪表 指针 阀门 管线 皮带 输送 合页 "
    "拉链 纽扣 污水 垃圾 塑料 金属 木材 纸张 玻瓶 瓶盖 标贴 包装 漏装 错装 装反 印刷 模糊 清晰 偏位 偏斜 倒伏 其余 "
    "不明 待定 存在 完整 成功 失败 通过 真实 虚假 左侧 右侧 上方 下方 前方 后方 室内 室外 白天 夜间 晴天 雨天 雾天"
)
WORDS = frozenset(_WORDS.split())
ALONE = frozenset("无有高中低好坏是否大小红黄蓝绿黑白")  # labels of one hanzi
ALONE_BITS = 6.0  # log2(3755 / 17), less the 2 bits that a common one adds anyway
PAIR_BITS = 14  # of one word among random pairs: log2(3755 ** 2 / len(WORDS))
ENOUGH_BITS = 16  # at random once in 2**16 times

_RUNS = re.compile(r"[^\x00-\x7f\u3000-\u303f\uff00-\uff5e·—‘’“”…×°]+")
_KEPT_BY_GB2312 = 0xB0, 0xF7  # first bytes of the hanzi in GB 2312


def chinese_bits(text: str) -> float:
    """Return log2 of how much likelier a text is Chinese than random characters.

    Every run of characters counts once, and ``ENOUGH_BITS`` are evidence. Characters that are not hanzi of GB 2312
    (rare and traditional ones, other scripts, private use) count against it, except in a word; ASCII and punctuation do
    not count at all.
    """
    runs = set(_RUNS.findall(text))
    characters = set().union(*runs) if runs else set()
    pairs = {one + two for run in runs for one, two in pairwise(run)}
    words = pairs & WORDS
    in_words = set("".join(words))
    bits = sum(
        max(0.0, _character_bits(character)) if character in in_words else _character_bits(character)
        for character in characters
    )
    return bits + ALONE_BITS * len(runs & ALONE) + len(words) * max(0.0, PAIR_BITS - math.log2(len(pairs) or 1))


def _character_bits(character: str) -> float:
    if character in COMMON:
        return 2.0  # log2(4/5 : 1/5)
    try:
        encoded = character.encode("gb2312")
    except UnicodeEncodeError:
        return -6.0
    return -2.0 if _KEPT_BY_GB2312[0] <= encoded[0] <= _KEPT_BY_GB2312[1] else -4.0


def foreign_run(text: str) -> str | None:
    """Find the first run of characters among Chinese ones that looks like a piece of a word in another code page.

    In such a run no character is in GB 2312, or it stands inside a word of small letters and no character is common.
    """
    for match in _RUNS.finditer(text):
        within = re.fullmatch("[a-z]{2}", text[match.start() - 1 : match.start()] + text[match.end() : match.end() + 1])
        if not match[0].encode("gb2312", "ignore") or (within and COMMON.isdisjoint(match[0])):
            return match[0]
    return None


def find_words(text: str) -> list[str]:
    """Find the words of ``WORDS`` in a text, in their order there, each once."""
    runs = _RUNS.findall(text)
    return list(dict.fromkeys(one + two for run in runs for one, two in pairwise(run) if one + two in WORDS))
